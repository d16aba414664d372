"""The memory of preprocess under hostile requests, many at a time: does it stay within its budget?"""
