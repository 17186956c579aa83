"""What is measured of each structure that was found."""
