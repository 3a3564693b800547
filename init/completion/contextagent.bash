# Completion of contextagent's command line for bash; goes to /usr/share/bash-completion/completions/contextagent.

_contextagent() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} verb='' offered='' index
    COMPREPLY=()
    # bash takes --root=DIR for three words
    [[ $word == '=' ]] && word=''
    [[ $before == '=' ]] && before=${COMP_WORDS[COMP_CWORD - 2]}

    for ((index = 1; index < COMP_CWORD; index++)); do
        case ${COMP_WORDS[index]} in
            --root | --policy | --disk | --metadata | --format)
                ((index++))
                [[ ${COMP_WORDS[index]} == '=' ]] && ((index++))
                ;;
            -*) ;;
            *) verb=${COMP_WORDS[index]} && break ;;
        esac
    done

    case $before in
        --format) offered='text json' ;;
        --as) offered='panda dirac dirac-pilot glideinwms' ;;
        --form) offered='path url' ;;
        --owner) offered='site user' ;;
        --phase) offered='pre-network post-network stop' ;;
        --event)
            offered='boot source verify refuse start end file identity environment logging network clock features
                lifetime pilot finish shutdown anchor'
            ;;
        --metadata) offered='none' ;;
        --dialect) offered='auto openstack vac ec2 nimbus cloudstack' ;;
        --imds) offered='v1 v2 both' ;;
        --fault) offered='404 500 503 hang drip truncate html redirect reset gzip' ;;
        --root | --policy | --disk | -o | --output | --user-data | --bundle | --out)
            _contextagent_files "$word"
            [[ $before == --disk && none == "$word"* ]] && COMPREPLY+=(none)
            return
            ;;
        --timeout | --in | --sha512 | --instance | --since | --anchor | --boot | --label | --bind) return ;;
    esac
    if [[ $offered ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$word")
        return
    fi

    local every='--root --policy --debug --help'
    case $verb in
        '') offered="run plan status explain analyze query watch remaining features pilot finish drain trace receipt collect-logs lint pack simulate serve $every --version" ;;
        run) offered="pre-network post-network stop --disk --metadata --force --resume $every" ;;
        plan) offered="pre-network post-network stop --disk --metadata --force --format $every" ;;
        status) offered="--wait --timeout --format $every" ;;
        explain | analyze) offered="--format $every" ;;
        query) offered="policy context status --format $every" ;;
        watch) offered="$every" ;;
        remaining) offered="--format $every" ;;
        features)
            offered="show check --format $every"
            case " ${COMP_WORDS[*]:index + 1:COMP_CWORD - index - 1} " in
                *' show '*) offered="--format $every" ;;
                *' check '*) offered="--as --form --format $every" ;;
            esac
            ;;
        pilot)
            offered="status stop --format $every"
            case " ${COMP_WORDS[*]:index + 1:COMP_CWORD - index - 1} " in
                *' status '*) offered="--format $every" ;;
                *' stop '*) offered="$every" ;;
            esac
            ;;
        finish) offered="$every" ;;
        drain) offered="--in --force $every" ;;
        trace)
            offered="show verify --format $every"
            case " ${COMP_WORDS[*]:index + 1:COMP_CWORD - index - 1} " in
                *' show '*) offered="--follow --owner --phase --event --sha512 --instance --since --format $every" ;;
                *' verify '*) offered="--anchor --format $every" ;;
            esac
            ;;
        receipt) offered="--boot --format $every" ;;
        collect-logs) offered="--format $every" ;;
        lint) offered="--format $every" ;;
        pack) offered="--output --label --format $every" ;;
        simulate) offered="--user-data --bundle --out --stop --format $every" ;;
        serve) offered="--bind --dialect --imds --fault --quiet $every" ;;
    esac
    case $verb:$offered in
        collect-logs:* | lint:* | pack:* | simulate:* | serve:* | trace:*--anchor* | trace:*--follow*)
            [[ $word == -* ]] || { _contextagent_files "$word" && return; }
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$word")
}

_contextagent_files() {
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$1")
}

complete -F _contextagent contextagent
