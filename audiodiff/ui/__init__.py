"""The page of `audiodiff ui`: recordings in, sound and pictures out, in a browser."""
