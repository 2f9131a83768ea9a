"""What must hold between the keys of one resolved config, a module a group; pure functions of plain containers."""
