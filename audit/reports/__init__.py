"""Reports as JSON, HTML and JUnit XML: built, redacted, sealed and verified."""
