"""All stages in one command, from documents to the report."""
