-- The script of the load generator: sends the token of a file, or the tokens of a file in turn.
-- arguments: the file, one token a line; without it the requests carry no token.

local main = {}

function setup(thread)
    main.thread = thread
end

function init(arguments)
    local requests = {}
    if arguments[1] then
        for token in io.lines(arguments[1]) do
            requests[#requests + 1] = wrk.format(nil, nil, { ["Host"] = wrk.headers["Host"], ["Authorization"] = "Bearer " .. token })
        end
    end
    if #requests == 1 then
        -- Without a function `request` wrk sends the same bytes without asking the script.
        wrk.headers["Authorization"] = requests[1]:match("Authorization: ([^\r]*)")
    elseif #requests > 1 then
        local next_one = 0
        function request()
            next_one = next_one + 1
            if next_one > #requests then next_one = 1 end
            return requests[next_one]
        end
    end
    started = os.clock()
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format("BENCH %d %d %d %d %.6f\n", summary.requests, summary.duration, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout, os.clock() - main.thread:get("started")))
end
