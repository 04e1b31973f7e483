"""The original homework, faults included, so that its numbers can be compared with ours."""
