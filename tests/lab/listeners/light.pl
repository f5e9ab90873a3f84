# A server so light that hundreds of them fit into a machine: listens on a TCP port in a child that outlives its parent.
#
# usage: light.pl PORT

use strict;
use Socket;

socket(my $listener, PF_INET, SOCK_STREAM, 0) or die "light.pl: no socket: $!\n";
setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1);
bind($listener, sockaddr_in($ARGV[0], INADDR_ANY)) && listen($listener, 5)
    or die "light.pl: cannot listen on $ARGV[0]: $!\n";
sleep if fork == 0;
