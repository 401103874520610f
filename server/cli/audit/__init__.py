"""`lorecall audit`: audits, reports and their exit codes."""
