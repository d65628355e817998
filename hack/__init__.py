"""Development tools; nothing here is installed or shipped."""
