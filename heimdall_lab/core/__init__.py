"""What all else stands on: numbers, places, words, files and the configuration; arrays alone, no labels."""
