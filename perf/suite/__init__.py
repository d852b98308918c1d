"""The measuring suite behind perf/run.sh; perf/README.md says what it measures and why so.

    options     the command line                   results     the lines of a run, on disk
    profiles    what load there is                 arithmetic  ratios, medians, spreads
    peers       who is measured                    targets     what Egret must reach
    tools       builds and installs                report      lines to Markdown
    machine     what the run runs on               plots       lines to pictures
    lab         namespaces, processes, one core    hgrm        percentile distributions
    session     one proxy in one lab
    measure     one point: load, checks, CPU       memory      user and kernel memory
    course      the order of the run, progress     accounting  system calls, kernel TCP's share
"""
