"""`make demo`: a spoken recording and a photograph go in, text and speech come out."""
