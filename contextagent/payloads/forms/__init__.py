"""The forms that user data comes in, one module each; `payloads.userdata` lists them."""
