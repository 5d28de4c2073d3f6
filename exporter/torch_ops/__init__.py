"""What any operator needs in torch."""
