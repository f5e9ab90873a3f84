# fish completion for portguard(8)

function __portguard_units
    set -l manager --system
    contains -- --user (commandline -opc); and set manager --user
    begin
        systemctl $manager list-unit-files --no-legend --no-pager --type=service,socket
        systemctl $manager list-units --all --plain --no-legend --no-pager --type=service,socket
    end 2>/dev/null | string replace -rf '^(\S*[^@\s]\.(?:service|socket)) .*' '$1' | sort -u
end

complete -c portguard -f
complete -c portguard -l unit -x -a '(__portguard_units)' -d 'The unit that is about to start'
complete -c portguard -l port -x -d 'One more port that it binds'
complete -c portguard -l policy -r -F -d 'Read this policy alone'
complete -c portguard -l user -d 'The unit is one of the calling user\'s own manager'
complete -c portguard -l dry-run -d 'Say what would be done, and do nothing'
complete -c portguard -s v -l verbose -d 'Say more of what was seen'
complete -c portguard -s h -l help -d 'Show the help'
complete -c portguard -s V -l version -d 'Show the version'
