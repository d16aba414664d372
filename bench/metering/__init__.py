"""Do the usage records in the database equal what clients received, whatever dies meanwhile?"""
