"""The gate fails closed: it opens for a part's confirmed PASS alone."""
