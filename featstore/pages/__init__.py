"""Report pages: single HTML files without network access or scripts, in which all names are escaped."""
