defmodule Snakepit.DeploymentExamplesTest do
  # What can be checked of examples/deployment without a container, systemd or Kubernetes running.
  # `Snakepit.ReleaseTest` runs a release as these files do.
  use ExUnit.Case, async: true

  @moduletag :tmp_dir

  @examples Path.expand("../examples/deployment", __DIR__)
  @guide Path.expand("../guides/deployment.md", __DIR__)

  # What a stop takes at most with the defaults: calls, :kill_grace, hooks.
  defp stop_seconds do
    {:ok, pool} = Snakepit.Config.pool(name: MyApp.Python)
    (2 * pool.shutdown_timeout + pool.kill_grace) / 1000
  end

  # Without those about the machine's own units.
  defp complaints(dir, unit) do
    path = Path.join(dir, "my_app.service")
    # A program that exists.
    File.write!(path, String.replace(unit, "/srv/my_app/bin/my_app", "/bin/sh"))
    args = ["verify", "--man=no", path]
    {output, _status} = System.cmd("systemd-analyze", args, stderr_to_stdout: true)
    for line <- String.split(output, "\n"), line =~ "my_app", do: line
  end

  defp read(name), do: File.read!(Path.join(@examples, name))

  test "the guide refers to each file" do
    guide = File.read!(@guide)
    assert [_, _, _] = names = File.ls!(@examples)
    for name <- names, do: assert(guide =~ "/examples/deployment/#{name})")
  end

  describe "Dockerfile" do
    setup do
      stages =
        for stage <- String.split(read("Dockerfile"), ~r/^FROM /m) |> tl() do
          stage |> String.replace("\\\n", " ") |> String.split("\n", trim: true)
        end

      {:ok, stages: stages}
    end

    test "copies only from stages above, all of the same distribution", %{stages: stages} do
      for {[_ | lines], index} <- Enum.with_index(stages) do
        above =
          for [from | _] <- Enum.take(stages, index), do: from |> String.split(" ") |> List.last()

        for line <- lines,
            [_, stage] <- Regex.scan(~r/--from=(\w+)/, line),
            do: assert(stage in above)
      end

      for [from | _] <- stages, do: assert(from =~ ~r/^debian:bookworm\b/)
    end

    test "has neither Rust nor a compiler nor pip's tools in the last stage, and is not root's",
         %{stages: stages} do
      last = List.last(stages)
      installed = last |> Enum.filter(&(&1 =~ "apt-get install")) |> Enum.join()
      assert installed =~ "python3"
      for no <- ~w(elixir erlang gcc rust curl venv pip), do: refute(installed =~ no)
      assert [user] = for("USER " <> user <- last, do: user)
      assert String.to_integer(user) > 0
      assert Enum.any?(last, &(&1 =~ "useradd" and &1 =~ "--uid #{user} "))
    end

    test "starts the release without a shell", %{stages: stages} do
      assert List.last(List.last(stages)) == ~s(CMD ["/app/bin/my_app", "start"])
      assert Enum.any?(hd(stages), &(&1 =~ "mix release --path /app"))
      assert Enum.any?(List.last(stages), &(&1 == "COPY --from=python /app /app"))
    end
  end

  describe "my_app.service" do
    unless System.find_executable("systemd-analyze"),
      do: @tag(skip: "systemd-analyze is not installed")

    test "is valid for systemd", %{tmp_dir: dir} do
      assert complaints(dir, read("my_app.service")) == []
      wrong = String.replace(read("my_app.service"), "KillMode=", "KillMod=")
      assert [line] = complaints(dir, wrong)
      assert line =~ "KillMod"
    end

    test "has what the guide to configuration shows of it" do
      configuration = File.read!(Path.expand("../guides/configuration.md", __DIR__))
      [_, shown] = Regex.run(~r/^```ini\n(.*?)^```$/ms, configuration)
      lines = &String.split(&1, "\n", trim: true)
      assert lines.(shown) -- lines.(read("my_app.service")) == []
    end

    test "gives the pools their time, and ends what is left" do
      unit = read("my_app.service")
      [_, seconds] = Regex.run(~r/^TimeoutStopSec=(\d+)$/m, unit)
      assert String.to_integer(seconds) > stop_seconds()
      assert unit =~ ~r/^KillMode=mixed$/m
      for limit <- ~w(MemoryMax TasksMax LimitNOFILE), do: assert(unit =~ ~r/^#{limit}=\d/m)
    end
  end

  describe "kubernetes.yaml" do
    python = System.find_executable("python3")

    unless python &&
             match?({_, 0}, System.cmd(python, ["-c", "import yaml"], stderr_to_stdout: true)) do
      @tag skip: "python3 has no package yaml"
    end

    test "has probes, time to stop, limits, and a writable /tmp only" do
      code = """
      import sys, yaml
      (document,) = yaml.safe_load_all(open(sys.argv[1]))
      spec = document["spec"]["template"]["spec"]
      labels = document["spec"]["template"]["metadata"]["labels"]
      assert document["spec"]["selector"]["matchLabels"] == labels
      (container,) = spec["containers"]
      ports = {port["name"] for port in container["ports"]}
      for probe, path in {"readiness": "/ready", "startup": "/live", "liveness": "/live"}.items():
          get = container[probe + "Probe"]["httpGet"]
          assert get["path"] == path and get["port"] in ports, probe
      pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
      assert spec["terminationGracePeriodSeconds"] > pause + float(sys.argv[2])
      assert spec["securityContext"]["runAsNonRoot"] is True
      assert container["securityContext"]["readOnlyRootFilesystem"] is True
      volumes = {volume["name"]: volume for volume in spec["volumes"]}
      (mount,) = container["volumeMounts"]
      assert mount["mountPath"] == "/tmp" and "emptyDir" in volumes[mount["name"]]
      assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
      assert all(isinstance(variable["value"], str) for variable in container["env"])
      """

      args = ["-c", code, Path.join(@examples, "kubernetes.yaml"), "#{stop_seconds()}"]
      {output, status} = System.cmd("python3", args, stderr_to_stdout: true)
      assert status == 0, output
    end
  end
end
