"""Results over time: runs kept in SQLite, compared and plotted."""
