"""What is done to a proxy while it carries load: metrics are read, configurations are swapped."""

import threading
import time

from .errors import CheckFailed

SCRAPES_PER_SECOND = 10
RELOADS_PER_SECOND = 1
SERVICES = 1000

SERVICE = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: service-{number}, namespace: shop }}
spec:
  hosts: [service-{number}.example.com]
  addresses: [198.18.{high}.{low}]
  ports: [{{ number: 80, name: tcp, protocol: TCP }}]
  resolution: NONE
"""


class _Repeated:
    """Calls `_step` at a steady rate on a thread of its own, from enter to exit."""

    rate = 1

    def __init__(self, session):
        self._session = session
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._seconds = []
        self._problem = None

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join(10)

    def _run(self):
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            start = time.monotonic()
            try:
                self._step()
            except OSError as problem:
                self._problem = problem
                return
            self._seconds.append(time.monotonic() - start)
            due += 1 / self.rate

    def check(self):
        """CheckFailed when it could not be done."""
        if self._problem or not self._seconds:
            raise CheckFailed(f"{type(self).__name__.lower()}: {self._problem or 'never done'}")

    def summary(self):
        return {"times": len(self._seconds),
                "mean_ms": round(1e3 * sum(self._seconds) / len(self._seconds), 2)}


class Scrape(_Repeated):
    """Reads the proxy's own metrics, as ten impatient Prometheus servers would."""

    rate = SCRAPES_PER_SECOND

    def __init__(self, session):
        super().__init__(session)
        self._bytes = 0

    def _step(self):
        self._bytes = len(self._session.get(self._session.peer.statistics))

    def summary(self):
        return {**super().summary(), "bytes": self._bytes}


class Reload(_Repeated):
    """Swaps a registry of a thousand services for one of a thousand and one, and back."""

    rate = RELOADS_PER_SECOND

    def __enter__(self):
        self._file = self._session.directory / "registry.d" / "load.yaml"
        self._generation = self._read_generation()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._swapped = self._read_generation() - self._generation
        self._file.unlink(missing_ok=True)

    def _step(self):
        text = "---\n".join(
            SERVICE.format(number=number, high=number // 256, low=number % 256)
            for number in range(SERVICES + len(self._seconds) % 2))
        # By rename, as an editor does it: nobody reads half a file.
        new = self._file.with_suffix(".new")
        new.write_text(text)
        new.rename(self._file)

    def _read_generation(self):
        for line in self._session.get(self._session.peer.statistics).decode().splitlines():
            if line.startswith("egret_config_generation "):
                return int(float(line.split()[1]))
        raise CheckFailed("the metrics have no egret_config_generation")

    def check(self):
        super().check()
        # The last swap may not have been noticed yet when the load ends.
        if self._swapped < len(self._seconds) - 1:
            raise CheckFailed(f"{len(self._seconds)} swaps, {self._swapped} new generations")

    def summary(self):
        return {**super().summary(), "generations": self._swapped}
