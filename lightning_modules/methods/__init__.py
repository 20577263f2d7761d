"""The methods, one file a paper, and what they share: start here."""
