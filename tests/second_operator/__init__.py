"""An operator of its own, as a user's package would have it: nothing outside this folder knows it."""
