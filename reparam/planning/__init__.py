"""What pays: candidates, what they would cost, and the operators that take their place."""
