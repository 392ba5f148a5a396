//! All patterns of all rules in one trie: which rules does an image match? No allocation.
