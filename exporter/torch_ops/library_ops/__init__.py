"""What a library op is made of: definition, fake kernel, derivatives, batch rule, autocast."""
