"""A sound of one's own: from a folder of recordings to a trained model, and a page that says whether to keep it."""
