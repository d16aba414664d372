"""`make demo`: speech, a picture and a film go in, text and speech come out."""
