"""The gate and the one door out; needs no torch, so that an auditor re-runs it on a laptop."""
