"""Search spaces of the tune job, one function per file."""
