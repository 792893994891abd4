"""Methods to compare MDiCo with, one a file."""
