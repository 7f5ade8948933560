"""Types that JSON does not have, and the values that are sent in their place."""
