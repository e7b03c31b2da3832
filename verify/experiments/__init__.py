"""What is put to the test, as data."""
