"""Libraries of others that pages bring along, unchanged: see README.md here."""
