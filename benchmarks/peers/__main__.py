from peers.cli import main

main()
