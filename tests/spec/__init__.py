"""The contract, sentence by sentence, on the real program."""
