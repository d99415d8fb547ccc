"""The likelihood along a parameter or two: scans, intervals, contours."""
