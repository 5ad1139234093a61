"""From files to cohorts."""
