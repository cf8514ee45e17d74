"""Training of Image2Feature and Feature2Image."""
