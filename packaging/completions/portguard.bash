# bash completion for portguard(8)

_portguard() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} manager=--system
    COMPREPLY=()
    case $before in
    --unit)
        [[ " ${COMP_WORDS[*]} " == *" --user "* ]] && manager=--user
        mapfile -t COMPREPLY < <(compgen -W "$(
            { systemctl $manager list-unit-files --no-legend --no-pager --type=service,socket
              systemctl $manager list-units --all --plain --no-legend --no-pager --type=service,socket
            } 2>/dev/null | sed -n 's/^\([^ ]*[^@ ]\.\(service\|socket\)\) .*/\1/p' | sed 's/\\/\\\\/g' | sort -u)" -- "$word")
        ;;
    --policy) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    --port) ;;
    *) mapfile -t COMPREPLY < <(compgen -W "--unit --port --policy --user --dry-run --verbose --help --version" -- "$word") ;;
    esac
}

complete -o filenames -F _portguard portguard
