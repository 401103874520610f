"""Reports as JSON, HTML and JUnit XML: built, redacted, sealed and verified."""

__all__ = [
    "build",
    "html",
    "junit",
    "matrix",
    "mitigation",
    "models",
    "ranks",
    "redact",
    "report",
    "signing",
    "snippets",
]
