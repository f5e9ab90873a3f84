# bash completion for portguard(8)

_portguard_units() {
    local manager=--system
    [[ " ${COMP_WORDS[*]} " == *" --user "* ]] && manager=--user
    { systemctl $manager list-unit-files --no-legend --no-pager --type=service,socket
      systemctl $manager list-units --all --plain --no-legend --no-pager --type=service,socket
    } 2>/dev/null | sed -n 's/^\([^ ]*[^@ ]\.\(service\|socket\)\) .*/\1/p' | sed 's/\\/\\\\/g' | sort -u
}

_portguard() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]} words=
    COMPREPLY=()
    case $before in
    --unit) mapfile -t COMPREPLY < <(compgen -W "$(_portguard_units)" -- "$word"); return ;;
    --policy) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
    --port | --near | --count) return ;;
    esac
    [ "$COMP_CWORD" -gt 1 ] || command=
    case $command in
    who) words="--unit --long --user --json --help" ;;
    learn) words="--user --json --help" ;;
    enable | disable) words="--runtime --user --json --help" ;;
    check) words="--policy --user --json --help" ;;
    audit) words="--user --json --help" ;;
    suggest) words="--near --count --udp --user --json --help" ;;
    help) words="who learn enable disable check audit suggest" ;;
    '') words="--unit --port --policy --user --dry-run --json --verbose --help --version"
        [[ $word == -* ]] || words="who learn enable disable check audit suggest help $words" ;;
    *) words="--unit --port --policy --user --dry-run --json --verbose --help --version" ;;
    esac
    case $command$word in
    learn-* | enable-* | disable-*) ;;
    learn* | enable* | disable*) words=$(_portguard_units) ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

complete -o filenames -F _portguard portguard
