"""From a folder of patient images to a cohort that may be shared, with the evidence."""

__version__ = "0.1.0"
