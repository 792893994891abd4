"""Campaigns against the mapping command: killed and lied to, many times, at random."""
