"""Base predictions of K networks to stacked predictions and their evaluation."""
