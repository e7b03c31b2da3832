"""Defenses at equal utility: what each costs a network in accuracy, and what attacks find at that cost."""
