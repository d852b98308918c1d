"""What can be checked without a lab: arithmetic, parsing, selection, the page itself."""
