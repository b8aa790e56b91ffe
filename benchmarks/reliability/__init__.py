"""A training that is killed, or whose disk is full: does it show in the end?"""
