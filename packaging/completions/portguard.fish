# fish completion for portguard(8)

function __portguard_units
    set -l manager --system
    contains -- --user (commandline -opc); and set manager --user
    begin
        systemctl $manager list-unit-files --no-legend --no-pager --type=service,socket
        systemctl $manager list-units --all --plain --no-legend --no-pager --type=service,socket
    end 2>/dev/null | string replace -rf '^(\S*[^@\s]\.(?:service|socket)) .*' '$1' | sort -u
end

# The command that was typed: a word right after portguard.
function __portguard_is
    set -l words (commandline -opc)
    test (count $words) -gt 1; and contains -- $words[2] $argv
end

function __portguard_is_guard
    set -l words (commandline -opc)
    test (count $words) -eq 1; or string match -q -- '-*' $words[2]
end

complete -c portguard -f
complete -c portguard -n __portguard_is_guard -l unit -x -a '(__portguard_units)' -d 'The unit that is about to start'
complete -c portguard -n __portguard_is_guard -l port -x -d 'One more port that it binds'
complete -c portguard -n __portguard_is_guard -l policy -r -F -d 'Read this policy alone'
complete -c portguard -n __portguard_is_guard -l user -d 'The unit is one of the calling user\'s own manager'
complete -c portguard -n __portguard_is_guard -l dry-run -d 'Say what would be done, and do nothing'
complete -c portguard -n __portguard_is_guard -l json -d 'Print how it ended as JSON as well'
complete -c portguard -n __portguard_is_guard -s v -l verbose -d 'Say more of what was seen'
complete -c portguard -n __portguard_is_guard -s h -l help -d 'Show the help'
complete -c portguard -n __portguard_is_guard -s V -l version -d 'Show the version'

set -l first 'test (count (commandline -opc)) -eq 1'
complete -c portguard -n $first -a who -d 'Who holds a port, whose that is, and what frees it'
complete -c portguard -n $first -a learn -d 'What a unit listens on, as a policy'
complete -c portguard -n $first -a enable -d 'Put portguard in front of a unit\'s start'
complete -c portguard -n $first -a disable -d 'Take away what enable has written'
complete -c portguard -n $first -a check -d 'All that is wrong with the policy'
complete -c portguard -n $first -a audit -d 'What keeps units from their ports one day'
complete -c portguard -n $first -a suggest -d 'Ports that nobody claims'
complete -c portguard -n $first -a help -d 'Show the help of a command'
complete -c portguard -n '__portguard_is who' -l unit -x -a '(__portguard_units)' -d 'Say how each holder stands to this unit'
complete -c portguard -n '__portguard_is who' -s l -l long -d 'Print columns, as lsof does'
complete -c portguard -n '__portguard_is learn enable disable' -a '(__portguard_units)'
complete -c portguard -n '__portguard_is enable disable' -l runtime -d 'Until the next boot: in /run'
complete -c portguard -n '__portguard_is check' -l policy -r -F -d 'Check this policy alone'
complete -c portguard -n '__portguard_is suggest' -l near -x -d 'As near to this port as can be'
complete -c portguard -n '__portguard_is suggest' -l count -x -d 'So many'
complete -c portguard -n '__portguard_is suggest' -l udp -d 'Of UDP, and not of TCP'
complete -c portguard -n '__portguard_is who learn enable disable check audit suggest' -l user -d 'Ask the calling user\'s own manager'
complete -c portguard -n '__portguard_is who learn enable disable check audit suggest' -l json -d 'Print JSON'
complete -c portguard -n '__portguard_is who learn enable disable check audit suggest' -s h -l help -d 'Show the help'
