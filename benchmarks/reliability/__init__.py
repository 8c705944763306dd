"""What durability costs: acknowledged writes beside raw fdatasync and SQLite, recovery, and a steady load."""
