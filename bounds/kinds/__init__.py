"""What theory states, a wing for each guarantee."""
