"""The studies that come with the platform, one per file, found by the file's name (``--study NAME``)."""
