"""What is measured, and the machine that measures it."""
